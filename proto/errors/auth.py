"""Who may do what: users of a table, and who runs the cluster."""

from __future__ import annotations

from proto.errors.base import BoathouseError


class AuthError(BoathouseError):
    """Base of what users, roles and permissions are about."""

    frame_code = 210


class UserEmpty(AuthError):
    """The request needs a user and brought none, or a user without a name was to be made."""

    frame_code = 211


class InvalidAuthToken(AuthError):
    """The token is unknown, expired, or none at all."""

    frame_code = 212


class PermissionDenied(AuthError):
    """The user may not do this."""

    frame_code = 213


class AuthOldRevision(AuthError):
    """Users or permissions have changed since this request's user was looked at; who he is has to be proved anew."""

    frame_code = 214


class AuthNotEnabled(AuthError):
    """There is nothing to log in to."""

    frame_code = 215


class AuthFailed(AuthError):
    """No such user, or not his password."""

    frame_code = 216


class NoPasswordUser(AuthError):
    """The user was made without a password: he is known by his certificate."""

    frame_code = 217


class RootUserNotExist(AuthError):
    """Authentication needs a user root, or nobody could end it."""

    frame_code = 218


class RootRoleNotExist(AuthError):
    """As RootUserNotExist: user root needs the role root."""

    frame_code = 219


class UserAlreadyExist(AuthError):
    """The name is taken."""

    frame_code = 220


class UserNotFound(AuthError):
    """No user has this name."""

    frame_code = 221


class RoleAlreadyExist(AuthError):
    """The name is taken."""

    frame_code = 222


class RoleNotFound(AuthError):
    """No role has this name."""

    frame_code = 223


class RoleEmpty(AuthError):
    """A role needs a name."""

    frame_code = 224


class RoleNotGranted(AuthError):
    """The user does not have the role that is to be taken from him."""

    frame_code = 225


class PermissionNotGiven(AuthError):
    """A grant without a permission."""

    frame_code = 226


class PermissionNotGranted(AuthError):
    """The role has no permission on exactly this span."""

    frame_code = 227


class InvalidAuthMgmt(AuthError):
    """What would leave nobody in charge, or a permission on no keys at all."""

    frame_code = 228


class PasswordTooLong(AuthError):
    """bcrypt looks at 72 bytes and no further."""

    frame_code = 229


class BearerMissing(BoathouseError):
    """The API of who runs the cluster needs a token, as `authorization: Bearer TOKEN`; none was shown."""

    frame_code = 375


class BadAuthorization(BearerMissing):
    """What was shown is no scheme with a token behind it."""

    frame_code = 376


class WrongBearer(BearerMissing):
    """The token that was shown is another one."""

    frame_code = 377


class Unguarded(BearerMissing):
    """Others can reach this cluster, and nothing tells who may run it; `detail` says what to write where."""

    frame_code = 378
