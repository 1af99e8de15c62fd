"""Webhooks: an owner's URLs are told of what becomes of the owner's jobs, signed after https://www.standardwebhooks.com.

A move of a job and its deliveries are one transaction of the store (`service.store.outbox`); from there `Sender` takes
them.
"""
