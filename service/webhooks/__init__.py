"""Webhooks: signed messages to an owner's URLs about the owner's jobs.

Signatures are those of https://www.standardwebhooks.com.

A move of a job and its deliveries are one transaction of the store (`service.store.outbox`). `Sender` takes them from
there.
"""
