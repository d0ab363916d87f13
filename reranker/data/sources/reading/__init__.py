"""What importers read with: files of any size → columns or records, line by line where they must, and every fault of them. Knows no data set."""
