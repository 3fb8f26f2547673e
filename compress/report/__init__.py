"""What a compression came to: a page, a model card and the numbers, from one plain dict."""
