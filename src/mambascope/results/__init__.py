"""What becomes of a result besides being shown: tables, arrays, words, spans, sums, paths, other libraries' shapes."""
