"""One function for each possible fault of a study: `DiagnosisInputs` → a finding or None."""
