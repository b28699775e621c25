"""What a run claims, told from workflows as they are written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runner.control.claiming import Claiming
from runner.engine.journal import Origin
from runner.engine.parts import Found
from runner.language import params
from runner.language.load import load
from runner.language.model import Workflow
from runner.language.params import from_arguments
from runner.language.subworkflows import Index
from runner.triggers import Trigger, TriggerType
from storage.records import Claim
from storage.store import StorageError

AT = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
ORIGIN = Origin("ops", "refs/heads/release/1", "c" * 40, "b10b")
ONE = "steps: [{command: 'true'}]\n"


class Files:
    """A Library of texts by id."""

    def __init__(self, **files: str) -> None:
        self.files = {id.replace("__", "/"): text for id, text in files.items()}
        self.read_ids: list[str] = []

    async def index(self, repository: str, commit: str) -> Index:
        assert (repository, commit) == ("ops", "c" * 40)
        return Index(frozenset(self.files))

    async def read(self, repository: str, commit: str, id: str) -> Found | None:
        self.read_ids.append(id)
        return Found(self.files[id], f".dagu/{id}.yaml")


def workflow(text: str, id: str = "main") -> Workflow:
    loaded = load(text.encode(), path=f".dagu/{id}.yaml", id=id)
    assert loaded.workflow is not None, loaded.problems
    return loaded.workflow


async def test_a_group_is_not_called_by_a_secret() -> None:
    text = "params: [API_TOKEN: t0p-s3cret]\nconcurrency: g-${API_TOKEN}\n" + ONE
    ((one, *_), (other, *_)) = await claims(text), await claims(text, "API_TOKEN=another")
    assert one.name.startswith("group:ops:g-sha256-") and one != other
    assert "t0p-s3cret" not in one.name


async def claims(text: str, *given: str, library: Files | None = None) -> tuple[Claim, ...]:
    main = workflow(text)
    bound = params.bind(main.params, from_arguments(given), mentioned=lambda _: True)
    claiming = Claiming(queues={"gpu": 2, "any": 0}, zone="Europe/Vienna", library=library)
    writes = await claiming.writes(
        "r1",
        main,
        bound=bound,
        origin=ORIGIN,
        trigger=Trigger(TriggerType.PUSH, "push:1", AT),
    )
    return writes[0].claims if writes else ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE, ()),
        ("queue: gpu\n" + ONE, (Claim("queue:gpu", 2),)),
        ("queue: any\n" + ONE, (Claim("queue:any", 0),)),
        ("queue: other\n" + ONE, (Claim("queue:other", 1),)),
        ("concurrency: deploy\n" + ONE, (Claim("group:ops:deploy", 1),)),
        (
            "queue: gpu\nconcurrency: {group: deploy, max: 3, cancelInProgress: true}\n" + ONE,
            (Claim("group:ops:deploy", 3, cancels=True), Claim("queue:gpu", 2)),
        ),
        ("concurrency: ' ${NOTHING} '\n" + ONE, ()),
    ],
)
async def test_a_run_claims_its_group_and_its_queue(text: str, expected: tuple[Claim, ...]) -> None:
    assert await claims(text) == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("deploy-${ENV}", "deploy-prod"),
        ("$REGION/{{.ENV}}", "eu-prod/prod"),
        ("${GIT_BRANCH} $EVENT_NAME ${DAG_NAME}", "release/1 push main"),
        ("$DATE", "2026-11-21"),
        ("${DOC.a}", "x"),
        ("$1", "prod"),
        (r"\$ENV", "$ENV"),
        ("${ENV.a}", "${ENV.a}"),
        ("$TICKS", "`echo x`"),
    ],
)
async def test_the_group_is_expanded_with_what_is_known_before_anything_runs(
    group: str, expected: str
) -> None:
    text = f"""
params: [ENV: staging, DOC: '{{"a":"x"}}', TICKS: '`echo x`']
env: [REGION: "eu-${{ENV}}"]
concurrency: '{group}'
{ONE}"""
    assert await claims(text, "prod") == (Claim(f"group:ops:{expected}", 1),)


async def test_values_from_outside_are_not_expanded_again() -> None:
    text = "params: [ENV: x]\nconcurrency: $ENV\n" + ONE
    (claim,) = await claims(text, "ENV=$HOME `reboot` ${GIT_REF}")
    assert claim.name == "group:ops:$HOME `reboot` ${GIT_REF}"


async def test_the_groups_of_all_that_it_may_call_are_claimed_with_it() -> None:
    library = Files(
        build="concurrency: {group: build, max: 2}\n" + ONE,
        team__deploy="concurrency: deploy\nqueue: gpu\nsteps: [{run: ../notify}, {run: gone}]\n",
        notify="concurrency: notify\nsteps: [{run: team/deploy}]\n",
        unused="concurrency: unused\n" + ONE,
    )
    text = """
concurrency: main
steps: [{run: build}, {run: part}, {run: "${NAME}"}, {run: unknown}]
handlerOn: {failure: {run: team/deploy}}
---
name: part
concurrency: part
steps: [{run: build}, {command: "true"}]
"""
    assert set(await claims(text, library=library)) == {
        Claim("group:ops:main", 1),
        Claim("group:ops:build", 2),
        Claim("group:ops:part", 1),
        Claim("group:ops:deploy", 1),
        Claim("group:ops:notify", 1),
    }
    assert sorted(library.read_ids) == ["build", "notify", "team/deploy"]


async def test_a_called_workflow_gets_what_is_known_of_its_params_and_else_its_own() -> None:
    library = Files(
        deploy="params: [ENV: dev, REGION: eu]\nconcurrency: deploy-$ENV-$REGION\n" + ONE
    )
    text = """
params: [TARGET: staging]
steps:
  - {run: deploy, params: "ENV=$TARGET REGION=us"}
  - {run: deploy, params: "ENV=${OUT}"}
  - {run: deploy, params: {ENV: "`date`", REGION: "x y"}}
  - {run: deploy, parallel: [prod, test]}
"""
    assert await claims(text, "TARGET=prod", library=library) == (
        Claim("group:ops:deploy-prod-us", 1),
        Claim("group:ops:deploy-dev-eu", 1),
        Claim("group:ops:deploy-dev-x y", 1),
    )


async def test_of_one_group_the_strictest_limit_counts() -> None:
    text = """
concurrency: {group: g, max: 4}
steps: [{run: two}, {run: three}]
---
name: two
concurrency: {group: g, max: 3, cancelInProgress: true}
steps: [{command: "true"}]
---
name: three
concurrency: {group: g, max: 5}
steps: [{command: "true"}]
"""
    assert await claims(text) == (Claim("group:ops:g", 3, cancels=True),)


async def test_circles_and_wide_trees_end() -> None:
    wide = {
        f"w{n}": f"steps: [{{run: w{n + 1}}}, {{run: w{n + 1}, params: A=1}},"
        f" {{run: w{(n or 9) - 1}}}]\n"
        for n in range(12)
    }
    library = Files(**wide, w12="concurrency: bottom\n" + ONE)
    assert await claims("steps: [{run: w4}]\n", library=library) == (Claim("group:ops:bottom", 1),)
    assert await claims("steps: [{run: w0}]\n", library=library) == ()  # deeper than any run goes


async def test_a_file_that_cannot_be_read_claims_nothing_and_a_failing_library_says_so() -> None:
    library = Files(bad="steps: [", good="concurrency: good\n" + ONE)
    text = "steps: [{run: bad}, {run: good}]\n"
    assert await claims(text, library=library) == (Claim("group:ops:good", 1),)

    class Failing(Files):
        async def index(self, repository: str, commit: str) -> Index:
            raise StorageError("the disk is gone")

    with pytest.raises(StorageError, match="the disk is gone"):
        await claims(text, library=Failing())
