"""Where mailbox bytes live: the interface (`base`), real files (`posix`), memory (`memory`)."""
