"""API keys: create, list, rotate, revoke; and whose key a caller has."""

from datetime import timedelta
from http import HTTPStatus

from fastapi import APIRouter

from ranksieve.api.http.errors import responses
from ranksieve.api.http.requests.json_bodies import JsonRoute
from ranksieve.api.http.routes.caller import Admin, Reader
from ranksieve.api.http.routes.links import KEY_LINKS
from ranksieve.api.http.schemas.keys import KeyBody, KeyList, Me, NewKey, Rotation, SecretKeyBody

router = APIRouter(
    prefix="/keys", tags=["keys"], responses=responses(HTTPStatus.FORBIDDEN), route_class=JsonRoute
)
own = APIRouter(tags=["keys"])


@router.post(
    "", status_code=HTTPStatus.CREATED, responses={201: {"description": "The key.", "links": KEY_LINKS}}
)
def create_key(new: NewKey, admin: Admin) -> SecretKeyBody:
    """Create a key; only this answer has its secret."""
    lifetime = None if new.days is None else timedelta(days=new.days)
    key, secret = admin.application.store.keys.create(new.owner, new.scope, lifetime)
    return SecretKeyBody.of(key, secret=secret)


@router.get("")
def list_keys(admin: Admin) -> KeyList:
    """List all keys, including expired and revoked ones."""
    return KeyList(keys=[KeyBody.of(key) for key in admin.application.store.keys.list()])


@router.post("/{key_id}/rotate", responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT))
def rotate_key(key_id: str, rotation: Rotation, admin: Admin) -> SecretKeyBody:
    """Replace a key by a new one of the same owner, scope and lifetime."""
    grace = timedelta(hours=rotation.grace_hours)
    key, secret = admin.application.store.keys.rotate(key_id, grace)
    return SecretKeyBody.of(key, secret=secret)


@router.post("/{key_id}/revoke", responses=responses(HTTPStatus.NOT_FOUND))
def revoke_key(key_id: str, admin: Admin) -> KeyBody:
    """Revoke a key at once."""
    return KeyBody.of(admin.application.store.keys.revoke(key_id))


@own.get("/me")
def me(reader: Reader) -> Me:
    """Show whose key the caller has, and what it may do."""
    return Me.of(reader.principal)
