"""A session as it is some hours after it was written: time can't be faked in Redis, but ids and records can be older."""

from .servers import key


def age(redis, session, hours):
    """All that a session holds was written so much earlier; nobody sees it in between. Returns an older id for each one."""
    milliseconds = int(hours * 3_600_000)

    def older(id):
        time, count = id.decode().split("-")
        return f"{int(time) - milliseconds}-{count}"

    name, ids = key(session), {}
    with redis.client.pipeline(transaction=True) as together:
        for stream in (name, name + ":inbox"):
            entries, left = redis.raw("XRANGE", stream, "-", "+"), redis.client.pttl(stream)
            together.delete(stream)
            for id, fields in entries:
                ids[id.decode()] = older(id)
                together.execute_command("XADD", stream, older(id), *fields)
            together.pexpire(stream, left)
        for response, told in redis.client.hgetall(name + ":producers").items():
            if not response.startswith(b"/"):
                epoch, n, state, token, id, time = told.split()
                record = b" ".join((epoch, n, state, token, older(id).encode(), b"%d" % (int(time) - milliseconds)))
                together.hset(name + ":producers", response, record)
        for scope, told in redis.client.hgetall(name + ":keys").items():
            if scope.startswith(b"="):
                print, time, id, inbox = told.split()
                both = [one if one == b"-" else older(one).encode() for one in (id, inbox)]
                together.hset(name + ":keys", scope, b" ".join((print, b"%d" % (int(time) - milliseconds), *both)))
        together.execute()
    return ids
