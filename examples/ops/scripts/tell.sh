# Tells the people on duty. Here it only prints; put your chat's or pager's call in its place.
set -eu
echo "ALERT ($DAG_NAME, run $DAG_RUN_ID): $1"
