-- The sample shop: books and what was sold of them.
CREATE TABLE books (isbn TEXT PRIMARY KEY, title TEXT NOT NULL, author TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE sales (day TEXT NOT NULL, isbn TEXT NOT NULL REFERENCES books, copies INTEGER NOT NULL);

INSERT INTO books VALUES
  ('978-0-00-000001-2', 'Lighthouses of the North', 'A. Lindqvist', 2450),
  ('978-0-00-000002-9', 'Bread at Night', 'M. Okafor', 1890),
  ('978-0-00-000003-6', 'A Short History of Rope', 'J. Castellan', 1590),
  ('978-0-00-000004-3', 'Moss', 'H. Tanaka', 2100),
  ('978-0-00-000005-0', 'The Clockmaker''s Orchard', 'E. Varga', 1750),
  ('978-0-00-000006-7', 'Maps for Walking', 'R. Delacroix', 2890);

INSERT INTO sales VALUES
  ('2026-08-03', '978-0-00-000001-2', 3),
  ('2026-08-11', '978-0-00-000002-9', 5),
  ('2026-08-19', '978-0-00-000006-7', 2),
  ('2026-08-27', '978-0-00-000004-3', 1),
  ('2026-09-02', '978-0-00-000002-9', 4),
  ('2026-09-05', '978-0-00-000003-6', 6),
  ('2026-09-14', '978-0-00-000005-0', 2),
  ('2026-09-23', '978-0-00-000001-2', 2),
  ('2026-10-01', '978-0-00-000006-7', 4),
  ('2026-10-06', '978-0-00-000002-9', 7),
  ('2026-10-13', '978-0-00-000004-3', 3),
  ('2026-10-17', '978-0-00-000003-6', 1),
  ('2026-10-22', '978-0-00-000005-0', 5),
  ('2026-10-29', '978-0-00-000001-2', 4);
