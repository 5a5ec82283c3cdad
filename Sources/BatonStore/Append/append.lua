-- Baton's atomic step. Its contract is the article AppendScript.
-- All arguments are taken and judged before the first write: a refused or malformed call leaves nothing behind.
local stream, producers, inbox, keys = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at = 0

local function take()
  at = at + 1
  return (assert(ARGV[at], 'ERR an argument is missing'))
end

local function number()
  return (assert(tonumber(take()), 'ERR not a number'))
end

local function takeFields()
  local from, count = at + 1, 2 * number()
  assert(count <= 2000 and at + count <= #ARGV, 'ERR too few arguments, or more than 1000 fields')
  at = at + count
  return from + 1, at
end

local function extend(entry, from, to)
  for i = from, to do entry[#entry + 1] = ARGV[i] end
  return entry
end

local op, ttl, cap = take(), number(), number()

local function int(value) return string.format('%.0f', value) end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function add(key, entry, length)
  return redis.call('XADD', key, 'MAXLEN', '=', int(length), '*', unpack(entry))
end

-- At most once a minute for appends: a PEXPIRE of each key is what an append costs otherwise.
local function slide()
  if op ~= 'append' or redis.call('PTTL', stream) < ttl - math.min(ttl / 10, 60000) then
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, int(ttl)) end
  end
end

local function generation() return tonumber(redis.call('HGET', producers, '/deleted') or 0) end

local function tombstone()
  local mark = int(math.max(now(), generation() + 1))
  redis.call('DEL', stream, producers, inbox, keys)
  redis.call('HSET', producers, '/deleted', mark)
  redis.call('PEXPIRE', producers, 3600000)
end

local function load(response)
  local epoch, n, state, token, id =
    string.match(redis.call('HGET', producers, response) or '', '^(%d+) (%d+) (%a+) (%S+) (%S+) %d+$')
  return epoch and { epoch = tonumber(epoch), n = tonumber(n), state = state, token = token, id = id }
end

local function store(response, is)
  redis.call('HSET', producers, response,
    table.concat({ int(is.epoch), int(is.n), is.state, is.token, is.id, int(now()) }, ' '))
end

local function writer(token) return string.match(token, '^[^.]*') end

-- What has ended, and whose last entry was trimmed away, needs no state any more.
local function prune()
  local count = redis.call('HLEN', producers)
  if count == 0 or count % 1024 ~= 0 then return end
  for _, response in ipairs(redis.call('HKEYS', producers)) do
    local is = load(response)
    if is and is.state ~= 'open' and #redis.call('XRANGE', stream, is.id, is.id) == 0 then
      redis.call('HDEL', producers, response)
    end
  end
end

local function write()
  local response, epoch, opened, token = take(), number(), take(), take()
  local position = number() - 1
  assert(string.match(response, '^[%w._~:@-]+$') and string.match(token, '^%S+$'), 'ERR bad name or token')
  local deleted = generation()
  if opened ~= '' and deleted > tonumber(opened) then return { 'deleted' } end

  local is = load(response)
  local new = not is
  local mine = is and writer(is.token) == writer(token)
  if new then
    if op == 'append' then return { 'lost' } end
    is = { epoch = math.max(epoch, 1), n = 0, state = 'open', id = '-' }
  else
    if op == 'open' and epoch == 0 then epoch = (mine or is.state ~= 'open') and is.epoch or is.epoch + 1 end
    if epoch < is.epoch or epoch == is.epoch and not mine and is.state == 'open' then
      return { 'fenced', int(is.epoch) }
    end
  end
  if position > is.n then return { 'rewind', int(is.n) } end

  local entries, n, state = {}, is.n, is.state
  while at < #ARGV do
    local kind = take()
    if kind == 'deltas' then
      local count = number()
      assert(count >= 1 and at + count <= #ARGV, 'ERR too few arguments')
      local known = math.max(n - position, 0)
      if count > known then
        local joined, data = count - known, table.concat(ARGV, '', at + known + 1, at + count)
        entries[#entries + 1] = joined == 1
          and { 'response', response, 'n', int(position + count), 'data', data }
          or { 'response', response, 'n', int(position + count), 'joined', int(joined), 'data', data }
      end
      at, position = at + count, position + count
    elseif kind == 'event' then
      local from, to = takeFields()
      position = position + 1
      if position > n then
        entries[#entries + 1] = extend({ 'response', response, 'n', int(position) }, from, to)
      end
    elseif kind == 'gap' then
      position = math.max(position, number())
    elseif kind == 'start' then
      local from, to = takeFields()
      if new then entries[#entries + 1] = extend({ 'event', 'start', 'response', response }, from, to) end
    else
      assert(kind == 'end' or kind == 'error' or kind == 'cancelled', 'ERR unknown kind of item')
      local from, to = takeFields()
      assert(at == #ARGV, 'ERR something follows the end')
      state = kind
      if is.state == 'open' then
        entries[#entries + 1] = extend({ 'event', kind, 'response', response }, from, to)
      end
    end
    n = math.max(n, position)
  end

  if is.state ~= 'open' then
    if not mine or epoch ~= is.epoch or n > is.n or state ~= is.state then
      return { 'ended', int(is.n), is.state }
    end
  else
    if new and #entries == 0 then entries[1] = { 'event', 'start', 'response', response } end
    for _, entry in ipairs(entries) do is.id = add(stream, entry, cap) end
    is.epoch, is.n, is.state, is.token = math.max(epoch, is.epoch), n, state, token
    store(response, is)
    if new then prune() end
    slide()
  end
  local newest = op == 'open' and redis.call('XREVRANGE', inbox, '+', '-', 'COUNT', 1)[1]
  return { 'ok', int(is.epoch), int(is.n), is.state, int(deleted), is.id, newest and newest[1] or '0-0' }
end

local function expire()
  local response, epoch, token = take(), number(), take()
  local is = load(response)
  if not is or is.state ~= 'open' or is.epoch ~= epoch or is.token ~= token then return { 'changed' } end
  is.id = add(stream, { 'event', 'error', 'response', response, 'data', '{"reason":"producer_lost"}' }, cap)
  is.state, is.token = 'error', '-'
  store(response, is)
  slide()
  return { 'ok', is.id }
end

-- The newest 1,000 keys, each for 24 h: '#slot' names the key that the next turn of the ring forgets.
local function remember(scope, record)
  local slot = '#' .. redis.call('HINCRBY', keys, '/count', 1) % 1000
  local old = redis.call('HGET', keys, slot)
  if old then redis.call('HDEL', keys, '=' .. old) end
  redis.call('HSET', keys, slot, scope, '=' .. scope, record)
end

local function put()
  local where, scope, device, subject, key = take(), take(), take(), take(), take()
  assert(where == 'stream' or where == 'inbox' or where == 'both', 'ERR unknown place')
  local from, to = takeFields()
  local time, print = now(), ''
  if scope ~= '' then
    local body = { where }
    for i = from, to do body[#body + 1] = #ARGV[i] .. ':' .. ARGV[i] end
    print = redis.sha1hex(table.concat(body, ' '))
    local seen, since, id, inboxId =
      string.match(redis.call('HGET', keys, '=' .. scope) or '', '^(%S+) (%S+) (%S+) (%S+)$')
    if seen and time - since < 86400000 then
      if seen ~= print then return { 'key_conflict' } end
      return { 'ok', id, inboxId, 'again' }
    end
  end
  local id, inboxId = '-', '-'
  if where ~= 'inbox' then id = add(stream, extend({}, from, to), cap) end
  if where ~= 'stream' then
    local entry = extend({}, from, to)
    for _, pair in ipairs({ { 'device', device }, { 'subject', subject }, { 'key', key } }) do
      if pair[2] ~= '' then
        table.insert(entry, pair[1])
        table.insert(entry, pair[2])
      end
    end
    inboxId = add(inbox, entry, 1000)
  end
  if scope ~= '' then remember(scope, table.concat({ print, int(time), id, inboxId }, ' ')) end
  slide()
  return { 'ok', id, inboxId, 'new' }
end

local types = { 'stream', 'hash', 'stream', 'hash' }
for i = 1, op == 'append' and 2 or 4 do
  local is = redis.call('TYPE', KEYS[i]).ok
  if is ~= types[i] and is ~= 'none' then return { 'wrong_type', KEYS[i] } end
  types[i] = is
end
-- A stream that is gone while its responses are not was deleted by hand: from here on it is as if by DELETE.
if types[1] == 'none' and types[2] == 'hash'
  and redis.call('HLEN', producers) > redis.call('HEXISTS', producers, '/deleted') then
  tombstone()
end

if op == 'open' or op == 'append' then return write() end
if op == 'put' then return put() end
if op == 'expire' then return expire() end
if op == 'delete' then
  tombstone()
  return { 'ok' }
end
return redis.error_reply('ERR unknown operation')
