"""What tests need: servers, fakes that pass the suites of the real things, a chat model."""
