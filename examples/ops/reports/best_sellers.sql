SELECT title, author, sum(copies) AS copies
FROM sales JOIN books USING (isbn)
GROUP BY isbn
ORDER BY copies DESC, title
