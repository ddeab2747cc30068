"""The oracle's part for accounts and keys: every question is answered by looking at every key."""

from typing import Any, Final

Message = dict[str, Any]

ABOUT_ACCOUNTS: Final = (
    "CreateAccount",
    "SuspendClient",
    "ResumeClient",
    "IssueKey",
    "RotateKey",
    "RevokeKey",
)


class AccountOracle:
    """All accounts, suspended clients and keys."""

    def __init__(self, keys_max: int) -> None:
        self.keys_max = keys_max
        self.now_ms = 0
        self.accounts: list[str] = []
        self.suspended: list[str] = []
        self.keys: list[Message] = []

    def execute(self, command: Message, now_ms: int) -> list[Message]:
        """Carry ``command`` out and tell what happened."""
        self.now_ms = now_ms
        if command["type"] == "IssueKey":
            return [self._issue(command)]
        if command["type"] == "RotateKey":
            return self._rotate(command)
        if command["type"] == "RevokeKey":
            return [self._revoke(command)]
        return [self._account(command)]

    def _account(self, command: Message) -> Message:
        kind, client_id = command["type"], command["client_id"]
        done, names, wanted, refused = {
            "CreateAccount": ("AccountCreated", self.accounts, False, "account_exists"),
            "SuspendClient": ("ClientSuspended", self.suspended, False, "already_suspended"),
            "ResumeClient": ("ClientResumed", self.suspended, True, "not_suspended"),
        }[kind]
        if (client_id in names) != wanted:
            return {"type": "AccountRejected", "client_id": client_id, "reason": refused}
        if wanted:
            names.remove(client_id)
        else:
            names.append(client_id)
        return {"type": done, "client_id": client_id}

    def _issue(self, command: Message) -> Message:
        reason = None
        if command["client_id"] not in self.accounts:
            reason = "unknown_account"
        elif self._key(command["key_id"]):
            reason = "key_exists"
        elif not self._has_material(command["algorithm"], command):
            reason = "key_material"
        elif self._good(command["client_id"]) >= self.keys_max:
            reason = "too_many_keys"
        if reason:
            names = {name: command[name] for name in ("key_id", "client_id")}
            return {"type": "KeyRejected", **names, "reason": reason}
        event = {**command, "type": "KeyIssued", "rotated_from": None, "overlap_ms": None}
        self.keys.append({**event, "ends_ms": None})
        return event

    def _rotate(self, command: Message) -> list[Message]:
        old = self._key(command["key_id"])
        if not old:
            return [self._key_refused(command["key_id"], None, "unknown_key")]
        client_id = old["client_id"]
        if old["ends_ms"] is not None or not self._is_good(old):
            return [self._key_refused(command["key_id"], client_id, "key_not_good")]
        new_id = command["new_key_id"]
        if self._key(new_id):
            return [self._key_refused(new_id, client_id, "key_exists")]
        if not self._has_material(old["algorithm"], command):
            return [self._key_refused(new_id, client_id, "key_material")]
        if self._good(client_id) - 1 >= self.keys_max:
            return [self._key_refused(new_id, client_id, "too_many_keys")]
        issued = {name: value for name, value in old.items() if name not in ("ends_ms", "time_ms")}
        issued["key_id"], issued["rotated_from"] = new_id, old["key_id"]
        for name in ("public_key", "master", "overlap_ms"):
            issued[name] = command[name]
        old["ends_ms"] = self.now_ms + command["overlap_ms"]
        self.keys.append({**issued, "ends_ms": None})
        return [issued, self._key_revoked(old)]

    def _revoke(self, command: Message) -> Message:
        key = self._key(command["key_id"])
        if not key:
            return self._key_refused(command["key_id"], None, "unknown_key")
        if key["ends_ms"] is not None and key["ends_ms"] <= self.now_ms:
            return self._key_refused(command["key_id"], key["client_id"], "key_ended")
        key["ends_ms"] = self.now_ms
        return self._key_revoked(key)

    def _key_revoked(self, key: Message) -> Message:
        names = {name: key[name] for name in ("key_id", "client_id", "ends_ms")}
        return {"type": "KeyRevoked", **names}

    def _key_refused(self, key_id: str, client_id: str | None, reason: str) -> Message:
        return {"type": "KeyRejected", "key_id": key_id, "client_id": client_id, "reason": reason}

    def _key(self, key_id: str) -> Message | None:
        for key in self.keys:
            if key["key_id"] == key_id:
                return key
        return None

    def _good(self, client_id: str) -> int:
        return len([k for k in self.keys if k["client_id"] == client_id and self._is_good(k)])

    def _is_good(self, key: Message) -> bool:
        for end in (key["ends_ms"], key["expires_ms"]):
            if end is not None and end <= self.now_ms:
                return False
        return True

    def _has_material(self, algorithm: str, command: Message) -> bool:
        has = command["public_key"] is not None, command["master"] is not None
        return has == (algorithm == "ed25519", algorithm == "hmac-sha256")
