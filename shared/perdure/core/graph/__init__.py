"""Graph flows, pure: the definition and its checks (`spec`), what runs next (`plan`), text with holes (`template`)."""
