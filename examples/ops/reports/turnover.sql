SELECT substr(day, 1, 7) AS month, sum(copies) AS copies, printf('%.2f', sum(copies * cents) / 100.0) AS eur
FROM sales JOIN books USING (isbn)
GROUP BY month
ORDER BY month
