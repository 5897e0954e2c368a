"""Every kind of source that is read: real files with known answers, as a mount shows them."""
