"""`perdure doctor`: examines a system whole, by the judge that tests and chaos ask too, and repairs what can be."""
