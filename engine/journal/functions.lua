#!lua name=qm1
--[[
The journal of a shard, as one library of server functions. Redis 7.0 and newer, Valkey 8 and newer.
Every function validates first and writes last: there is no rollback.

Keys of shard N (one hash tag, so one cluster slot). Layouts of packed values: engine/journal/chain.py.
  m  qm:{sN}:m            hash: e = epoch (decimal), o = owner nonce, a = addresses (msgpack), t = tail (packed, 40 bytes),
                          r = counter of repeated appends
  j  qm:{sN}:j            stream: id = <seq>-<epoch>, e = entry (packed)
  d  qm:{sN}:d            stream: same ids, d = decision records of that entry (packed); trimmed with j, read by nothing else
  p  qm:{sN}:p            hash: part -> references of its snapshots (packed), newest first, at most two
  w  qm:{sN}:w:<epoch>:<part>:<seq>  string: a snapshot being written, expires; the epoch is in its name, so a zombie cannot touch ours
  s  qm:{sN}:s:<part>:<seq>  string: a published snapshot
  a  qm:{sN}:a            hash: a = entries archived, i = indexed, m = time of that entry, t = when it said so, w = 1 where
                          the index has all of the past of every shard (decimal). The archiver's own

Every answer is an array that opens with a code, then the server's time in ms.
--]]

local OK, DUP, FENCED, BEHIND, CONFLICT, FULL = 1, 2, 3, 4, 5, 6
local NEW_WORK_SHARE, ANY_WORK_SHARE = 0.90, 1.00
local MEMORY_CHECK_MS = 50
-- The library cannot call `string` while it loads.
local GENESIS = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' ..
  '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Big-endian u64 of a packed value. Exact up to 2^53. (Strings are not compared with <: that follows the server's locale.)
local function u64(packed, at)
  local value = 0
  for i = at, at + 7 do
    value = value * 256 + string.byte(packed, i)
  end
  return value
end

local function tail_epoch(tail) return u64(tail, 1) end
local function tail_seq(tail) return u64(tail, 9) end

-- A server that knows only older epochs than the caller's has lost the takeover itself.
local function fenced_or_behind(held, mine)
  return tonumber(held or '0') > tonumber(mine) and FENCED or BEHIND
end

-- Share of maxmemory in use, looked at every 50 ms: INFO costs more than the append.
local memory_checked_ms, memory_share = 0, 0
local function share_of_memory(now)
  if now - memory_checked_ms >= MEMORY_CHECK_MS or now < memory_checked_ms then
    local info = redis.call('INFO', 'memory')
    local used = tonumber(string.match(info, '\nused_memory:(%d+)'))
    local limit = tonumber(string.match(info, '\nmaxmemory:(%d+)'))
    memory_checked_ms = now
    memory_share = limit > 0 and used / limit or 0
  end
  return memory_share
end

-- KEYS m    ARGV owner nonce, addresses
-- -> OK, ms, epoch, tail. The newest caller owns the shard from here on: every older copy's calls are FENCED. The caller then
-- appends the entry that begins its epoch, with qm1_append. Idempotent by nonce. Epochs follow the clock too, so that a server
-- that was rolled back never gives one out twice.
local function acquire(keys, argv)
  local now = now_ms()
  local held = redis.call('HMGET', keys[1], 'e', 'o', 't')
  local tail = held[3] or GENESIS
  local epoch = tonumber(held[1] or '0')
  if held[2] == argv[1] then
    redis.call('HSET', keys[1], 'a', argv[2])
    return { OK, now, epoch, tail }
  end
  epoch = math.max(epoch + 1, math.floor(now / 1000))
  redis.call('HSET', keys[1], 'e', string.format('%.0f', epoch), 'o', argv[1], 'a', argv[2])
  return { OK, now, epoch, tail }
end

-- KEYS m, j, d    ARGV epoch, tail it comes after, tail it makes, id, entry, '1' if it finishes work, decisions ('' = none)
-- -> code, ms [, epoch, tail as they are]
local function append(keys, argv)
  local now = now_ms()
  local held = redis.call('HMGET', keys[1], 'e', 't')
  local tail = held[2] or GENESIS
  if held[1] ~= argv[1] then
    return { fenced_or_behind(held[1], argv[1]), now, tonumber(held[1] or '0'), tail }
  end
  if tail ~= argv[2] then
    if tail == argv[3] then
      -- The write was there, its answer was lost. Something must be written here too: the answer promises an fsync, and a
      -- call that writes nothing waits for none.
      redis.call('HINCRBY', keys[1], 'r', 1)
      return { DUP, now }
    end
    return { tail_seq(tail) < tail_seq(argv[2]) and BEHIND or CONFLICT, now, tonumber(held[1]), tail }
  end
  -- The entry that begins an epoch is tiny and always taken: a shard that cannot start cannot trim either.
  if share_of_memory(now) >= (argv[6] == '1' and ANY_WORK_SHARE or NEW_WORK_SHARE) and tail_epoch(tail) == tonumber(argv[1]) then
    return { FULL, now }
  end
  redis.call('XADD', keys[2], argv[4], 'e', argv[5])
  if argv[7] ~= '' then
    redis.call('XADD', keys[3], argv[4], 'd', argv[7])
  end
  redis.call('HSET', keys[1], 't', argv[3])
  return { OK, now }
end

-- KEYS m    ARGV epoch    -> OK | FENCED | BEHIND, ms, epoch as it is
local function check_epoch(keys, argv)
  local now = now_ms()
  local epoch = tonumber(redis.call('HGET', keys[1], 'e') or '0')
  local mine = tonumber(argv[1])
  return { epoch == mine and OK or fenced_or_behind(epoch, mine), now, epoch }
end

-- KEYS m, p, w, s of the new snapshot [, s of the one that goes]
-- ARGV epoch, part, references expected, references wanted, bytes written
-- -> OK | DUP | FENCED | BEHIND | CONFLICT, ms. The bytes were read back and verified by the caller before.
local function publish_part(keys, argv)
  local now = now_ms()
  local epoch = redis.call('HGET', keys[1], 'e')
  if epoch ~= argv[1] then
    return { fenced_or_behind(epoch, argv[1]), now }
  end
  local held = redis.call('HGET', keys[2], argv[2]) or ''
  if held == argv[4] then
    redis.call('UNLINK', keys[3])
    return { DUP, now }
  end
  if held ~= argv[3] or redis.call('STRLEN', keys[3]) ~= tonumber(argv[5]) then
    return { CONFLICT, now }
  end
  redis.call('RENAME', keys[3], keys[4])
  redis.call('PERSIST', keys[4])
  redis.call('HSET', keys[2], argv[2], argv[4])
  if keys[5] then
    redis.call('UNLINK', keys[5])
  end
  return { OK, now }
end

-- KEYS m, j, d    ARGV epoch, last sequence to go    -> OK | FENCED | BEHIND, ms, entries removed. The newest entry always stays.
local function trim(keys, argv)
  local now = now_ms()
  local held = redis.call('HMGET', keys[1], 'e', 't')
  if held[1] ~= argv[1] then
    return { fenced_or_behind(held[1], argv[1]), now }
  end
  local first_kept = math.min(tonumber(argv[2]) + 1, tail_seq(held[2] or GENESIS))
  local id = string.format('%.0f', first_kept)
  local removed = redis.call('XTRIM', keys[2], 'MINID', '=', id)
  redis.call('XTRIM', keys[3], 'MINID', '=', id)
  return { OK, now, removed }
end

-- allow-oom: the functions watch memory themselves. Were the server to refuse first, a repeated append that is already there
-- could not be told so, and nothing could be trimmed.
redis.register_function { function_name = 'qm1_acquire', callback = acquire, flags = { 'allow-oom' } }
redis.register_function { function_name = 'qm1_append', callback = append, flags = { 'allow-oom' } }
redis.register_function { function_name = 'qm1_check_epoch', callback = check_epoch, flags = { 'no-writes' } }
redis.register_function { function_name = 'qm1_publish_part', callback = publish_part, flags = { 'allow-oom' } }
redis.register_function { function_name = 'qm1_trim', callback = trim, flags = { 'allow-oom' } }
