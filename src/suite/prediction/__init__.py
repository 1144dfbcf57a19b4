"""Which model will be used next: policies that learn from usage. They read no database themselves."""
