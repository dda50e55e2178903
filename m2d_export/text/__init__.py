"""Texts: read from files, turned into token ids, and padded into batches; the sentences that come with the package."""
