"""Models from the Hugging Face Hub, for `suite pull`: what a repository offers, and downloads that go on."""
