-- Baton's atomic step. Its contract is the article AppendScript.
-- All arguments are taken and judged before the first write, and what Redis may refuse is tried before the first entry: a
-- refused or malformed call leaves nothing behind, and what comes after an entry can't fail any more.
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

local op = take()
-- With '?': a gateway's, for a session that has no retention yet. Without: the session's producer sets it.
local guest, ttl = string.match(take(), '^(%??)(%d+)$')
assert(ttl, 'ERR not a number')
guest, ttl = guest == '?', tonumber(ttl)
local cap = number()
local types = { 'stream', 'hash', 'stream', 'hash' }

local function int(value) return string.format('%.0f', value) end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Before Redis 7 nothing counts what is added. The first entry of a stream that holds none tells which id was the last one
-- generated, `0-0` where there is no stream: who has seen that much knows that nothing was missed.
local isTold = redis.REDIS_VERSION_NUM ~= nil
local function tellPredecessor(entry)
  isTold = true
  local info = types[1] == 'none' and { length = 0, ['last-generated-id'] = '0-0' } or {}
  if types[1] ~= 'none' then
    local told = redis.pcall('XINFO', 'STREAM', stream)
    for i = 1, #told, 2 do info[told[i]] = told[i + 1] end
  end
  if info.length == 0 then
    entry[#entry + 1] = '_after'
    entry[#entry + 1] = info['last-generated-id']
  end
end

local function add(key, entry, length)
  if key == stream and not isTold then tellPredecessor(entry) end
  if not length then return redis.call('XADD', key, '*', unpack(entry)) end
  return redis.call('XADD', key, 'MAXLEN', '=', int(length), '*', unpack(entry))
end

-- The retention that the session's producer, or the gateway that created its stream, has set: TTL, CAP, whether a gateway.
local function retention()
  local own, entries, by = string.match(redis.call('HGET', producers, '/retention') or '', '^(%d+) (%d+) (%a+)$')
  return tonumber(own), tonumber(entries), by == 'gateway'
end

-- Before the first entry, which may create the stream. Returns the length to which a gateway may trim.
local function settle()
  if guest and types[1] ~= 'none' then
    local _, entries, isGuests = retention()
    return isGuests and entries or nil
  end
  if op ~= 'append' or types[1] == 'none' then
    redis.call('HSET', producers, '/retention', table.concat({ int(ttl), int(cap), guest and 'gateway' or 'producer' }, ' '))
  end
  return cap
end

local function lengthen(key, to)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'number' and left ~= -2 and left < to - math.min(to / 10, 60000) then
    redis.pcall('PEXPIRE', key, int(to))
  end
end

-- At most once a minute for appends: a PEXPIRE of each key is what an append costs otherwise.
local function slide()
  local left = redis.pcall('PTTL', stream)
  if type(left) ~= 'number' then return end
  if not guest then
    if op ~= 'append' or left < ttl - math.min(ttl / 10, 60000) then
      for _, key in ipairs(KEYS) do redis.pcall('PEXPIRE', key, int(ttl)) end
    end
    return
  end
  -- A gateway never shortens a life: the stream's is the producer's, and the other keys live as long.
  local own = types[1] == 'none' and ttl or retention()
  if own and (left >= 0 or types[1] == 'none') then
    if left < own - math.min(own / 10, 60000) then redis.pcall('PEXPIRE', stream, int(own)) end
    left = math.max(left, own)
  end
  for i = 2, 4 do lengthen(KEYS[i], left >= 0 and left or ttl) end
end

local function generation() return tonumber(redis.call('HGET', producers, '/deleted') or 0) end

local function tombstone()
  local before = redis.call('HGET', producers, '/deleted')
  local mark = int(math.max(now(), tonumber(before or 0) + 1))
  redis.call('HSET', producers, '/deleted', mark)
  local refused = redis.pcall('DEL', stream, producers, inbox, keys)
  if type(refused) == 'table' then
    if before then redis.call('HSET', producers, '/deleted', before) else redis.pcall('HDEL', producers, '/deleted') end
    error(refused.err)
  end
  redis.call('HSET', producers, '/deleted', mark)
  redis.pcall('PEXPIRE', producers, 3600000)
  types = { 'none', 'hash', 'none', 'none' }
end

local function load(response)
  local epoch, n, state, token, id =
    string.match(redis.call('HGET', producers, response) or '', '^(%d+) (%d+) (%a+) (%S+) (%S+) %d+$')
  return epoch and { epoch = tonumber(epoch), n = tonumber(n), state = state, token = token, id = id }
end

local function store(response, is, time)
  redis.call('HSET', producers, response,
    table.concat({ int(is.epoch), int(is.n), is.state, is.token, is.id, int(time) }, ' '))
end

-- By which bits the letters of `webhooks:LETTERS` differ for each bit of its slot, four bits a letter: CRC-16 is linear.
local letters = { 6906, 1773, 10107, 4364, 10897, 14784, 8035, 10111, 4356, 8712, 7146, 1229, 9019, 6540 }

-- The hash of what webhooks are to tell of the session's slot in a cluster, which lies in that slot, too. 8766 is the slot
-- of `webhooks:@@@@`.
local function pending(session)
  local crc, floor, xor = 0, math.floor, bit.bxor
  for i = 1, #session do
    local byte = string.byte(session, i)
    crc = xor(crc * 16 % 65536, xor(floor(crc / 4096), floor(byte / 16)) * 4129)
    crc = xor(crc * 16 % 65536, xor(floor(crc / 4096), byte % 16) * 4129)
  end
  local change, name = xor(crc % 16384, 8766), 0
  for i = 1, 14 do
    if change % 2 == 1 then name = xor(name, letters[i]) end
    change = floor(change / 2)
  end
  return string.char(64 + floor(name / 4096), 64 + floor(name / 256) % 16, 64 + floor(name / 16) % 16, 64 + name % 16)
end

-- For webhooks, where a gateway that sends them has made the hash: at most 1,000 fields a slot, more are counted. Without
-- an id: the response is open, and whoever produces it has a lease that is to be watched.
local function tell(id, event, response, n)
  local prefix, session = string.match(stream, '^(.-){([^{}]+)}$')
  if not session then return end
  local word = pending(session)
  local hash = prefix .. '{webhooks:' .. word .. '}:pending'
  local count = redis.pcall('HLEN', hash)
  if type(count) ~= 'number' or count == 0 then return end
  local open = session .. ' =' .. response
  if id then redis.pcall('HDEL', hash, open) end
  if count >= 1000 then
    if id then redis.pcall('HINCRBY', hash, '/full', 1) end
  else
    redis.pcall('HSET', hash, id and session .. ' ' .. id or open, table.concat({ event, response, int(n) }, ' '))
  end
  if id then redis.pcall('PUBLISH', prefix .. 'webhooks', word) end
end

local ends = { ['end'] = true, error = true, cancelled = true }

local function writer(token) return string.match(token, '^[^.]*') end

-- The stream lives and its state is gone (evicted, deleted, or never written): what the newest entries say of responses is
-- taken for their state, so that nothing of them is appended twice. At most 1,000 entries, and about 1 MiB.
local function recover()
  local seen, upTo, entries, bytes, count = {}, '+', 0, 0, 8
  repeat
    local page = redis.call('XREVRANGE', stream, upTo, '-', 'COUNT', count)
    for _, entry in ipairs(page) do
      local id, named = entry[1], {}
      for i = 1, #entry[2], 2 do
        local name, value = entry[2][i], entry[2][i + 1]
        bytes = bytes + #name + #value
        named[name] = named[name] or value
      end
      entries, upTo = entries + 1, '(' .. id
      local response, n = named.response, string.match(named.n or '', '^[1-9]%d*$')
      if response and string.match(response, '^[%w._~:@-]+$') and #response <= 128 then
        local is = seen[response] or { epoch = 0, n = 0, state = 'open', token = '-', id = id }
        if n and #n <= 15 then is.n = math.max(is.n, tonumber(n)) end
        if named.event == 'end' or named.event == 'error' or named.event == 'cancelled' then is.state = named.event end
        seen[response] = is
      end
    end
    local isAll = #page < count
    count = math.min(count * 2, 128)
  until isAll or entries >= 1000 or bytes >= 1048576
  return seen
end

-- What has ended, and whose last entry was trimmed away, needs no state any more.
local function prune()
  local count = redis.pcall('HLEN', producers)
  if type(count) ~= 'number' or count == 0 or count % 1024 ~= 0 then return end
  local responses = redis.pcall('HKEYS', producers)
  if responses.err then return end
  for _, response in ipairs(responses) do
    local is = load(response)
    local left = is and is.state ~= 'open' and redis.pcall('XRANGE', stream, is.id, is.id)
    if left and not left.err and #left == 0 then redis.pcall('HDEL', producers, response) end
  end
end

local function write()
  local response, epoch, opened, token = take(), number(), take(), take()
  local position = number() - 1
  assert(string.match(response, '^[%w._~:@-]+$') and string.match(token, '^%S+$'), 'ERR bad name or token')
  local deleted = generation()
  if opened ~= '' and deleted > tonumber(opened) then return { 'deleted' } end

  local time = now()
  local newest = op == 'open' and redis.call('XREVRANGE', inbox, '+', '-', 'COUNT', 1)[1]
  local found = types[1] == 'stream' and types[2] == 'none' and recover() or {}
  local is = found[response] or load(response)
  local new = not is
  local mine = is and writer(is.token) == writer(token)
  if is and is.epoch == 0 then
    -- Of its writers nothing is known: whoever comes first is taken for the one.
    mine, is.epoch = true, math.max(epoch, 1)
  end
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
    local part
    if kind == 'part' then
      part, kind = take(), 'deltas'
      assert(string.match(part, '^[%l%d-]+:[%w._~:@-]+$') and #part <= 128, 'ERR bad part')
    end
    if kind == 'deltas' then
      local count = number()
      assert(count >= 1 and at + count <= #ARGV, 'ERR too few arguments')
      local known = math.max(n - position, 0)
      if count > known then
        local joined, data = count - known, table.concat(ARGV, '', at + known + 1, at + count)
        local entry = { 'response', response, 'n', int(position + count) }
        if part then entry[5], entry[6] = 'part', part end
        if joined > 1 then entry[#entry + 1], entry[#entry + 2] = 'joined', int(joined) end
        entry[#entry + 1], entry[#entry + 2] = 'data', data
        entries[#entries + 1] = entry
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
    is.epoch, is.token = math.max(epoch, is.epoch), token
    -- That the state can be written is known before the first entry is.
    for other, was in pairs(found) do store(other, was, time) end
    if op == 'open' then store(response, is, time) end
    local length = settle()
    for index, entry in ipairs(entries) do
      local done, id = pcall(add, stream, entry, length)
      if not done then
        if new and index == 1 then redis.pcall('HDEL', producers, response) end
        error(id, 0)
      end
      is.id = id
    end
    is.n, is.state = n, state
    store(response, is, time)
    if new then prune() end
    slide()
    if ends[state] then
      tell(is.id, state, response, n)
    elseif op == 'open' and string.find(token, '.', 1, true) then
      tell(nil, 'open', response, n)
    end
  end
  return { 'ok', int(is.epoch), int(is.n), is.state, int(deleted), is.id, newest and newest[1] or '0-0' }
end

local function expire()
  local response, epoch, token = take(), number(), take()
  local is = load(response)
  if not is or is.state ~= 'open' or is.epoch ~= epoch or is.token ~= token then return { 'changed' } end
  local time = now()
  store(response, is, time)
  is.id = add(stream, { 'event', 'error', 'response', response, 'data', '{"reason":"producer_lost"}' })
  is.state, is.token = 'error', '-'
  store(response, is, time)
  slide()
  tell(is.id, 'error', response, is.n)
  return { 'ok', is.id }
end

-- The newest 1,000 keys, each for 24 h: '#slot' names the key that the next turn of the ring forgets.
local function reserve(scope)
  local slot = '#' .. redis.call('HINCRBY', keys, '/count', 1) % 1000
  local old = redis.call('HGET', keys, slot)
  if old then redis.call('HDEL', keys, '=' .. old) end
  redis.call('HSET', keys, slot, scope)
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
  if scope ~= '' then reserve(scope) end
  if where ~= 'inbox' then
    local length = settle()
    id = add(stream, extend({}, from, to), where == 'stream' and length or nil)
  end
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
  if scope ~= '' then redis.call('HSET', keys, '=' .. scope, table.concat({ print, int(time), id, inboxId }, ' ')) end
  slide()
  local named = {}
  for i = from, to, 2 do named[ARGV[i]] = named[ARGV[i]] or ARGV[i + 1] end
  local response = string.match(named.response or '', '^[%w._~:@-]+$')
  if where == 'both' and named.event == 'input' or where == 'stream' and ends[named.event] and response then
    tell(id, named.event, response or '-', 0)
  end
  return { 'ok', id, inboxId, 'new' }
end

for i = 1, op == 'append' and 2 or 4 do
  local is = redis.call('TYPE', KEYS[i]).ok
  if is ~= types[i] and is ~= 'none' then return { 'wrong_type', KEYS[i] } end
  types[i] = is
end
-- A stream that is gone while its responses are not was deleted by hand: from here on it is as if by DELETE.
if types[1] == 'none' and types[2] == 'hash' then
  local responses = redis.call('HLEN', producers)
  for _, name in ipairs({ '/deleted', '/retention' }) do
    if redis.call('HGET', producers, name) then responses = responses - 1 end
  end
  if responses > 0 then tombstone() end
end

if op == 'open' or op == 'append' then return write() end
if op == 'put' then return put() end
if op == 'expire' then return expire() end
if op == 'delete' then
  tombstone()
  return { 'ok' }
end
return redis.error_reply('ERR unknown operation')
