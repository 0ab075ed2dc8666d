"""What becomes of a result besides being shown: tables, words and spans, sums and means, shapes of other libraries."""
