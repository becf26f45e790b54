"""The Lua of `redis_engine`; it does what `memory.Store` does. KEYS: head and rows."""

from __future__ import annotations

_COMMON = """
local function unpack_row(packed)
  local row = {}
  for part in string.gmatch(packed, '%S+') do row[#row + 1] = part end
  return row
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local h = redis.call('HMGET', KEYS[1],
  'epoch', 'run', 'max_size', 'sum', 'lease', 'learning', 'number', 'declared', 'count')
local epoch, max_size, sum, lease = h[1], tonumber(h[3]), tonumber(h[4]), h[5]
local learning, number, declared, count = h[6] == '1', tonumber(h[7]), tonumber(h[8]), tonumber(h[9])
local alive = epoch and h[2] == run and redis.call('HLEN', KEYS[2]) == count
"""

EXCHANGE = (
    _COMMON
    + """
local fresh, host, theirs = ARGV[1], ARGV[2], ARGV[3]
local seq, keep, ask = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not alive then
  epoch, max_size, sum, lease = fresh, tonumber(ARGV[10]), 0, ARGV[11]
  learning, number, declared, count = true, 0, 0, 0
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'max_size', max_size, 'sum', 0, 'lease', lease,
    'learning', 1, 'number', 0, 'declared', 0, 'count', 0)
end
local packed = redis.call('HGET', KEYS[2], host)
local row = packed and unpack_row(packed)
local had, seen = row and tonumber(row[3]) or 0, row and tonumber(row[2]) or 0
local refused = ''
if theirs ~= epoch then refused = 'epoch' elseif row and seq <= seen then refused = 'seq' end
if refused ~= '' then
  return {refused, epoch, learning and 1 or 0, max_size, lease, max_size - sum, 0, 0, seen}
end
if ARGV[12] == '1' then max_size = tonumber(ARGV[10]) end
local credit
if learning then
  credit = row and math.min(had, keep) or keep
else
  local kept = math.min(had, keep)
  credit = kept + math.max(0, math.min(keep - kept + ask, max_size - sum + had - kept))
end
number, sum = number + 1, sum + credit - had
if not row then declared, count = number, count + 1 end
redis.call('HSET', KEYS[1], 'max_size', max_size, 'sum', sum, 'number', number, 'declared', declared, 'count', count)
redis.call('HSET', KEYS[2], host, string.format('%.0f %.0f %.0f 0 %s %s %s', number, seq, credit,
  ARGV[7], ARGV[8], ARGV[9]))
return {'', epoch, learning and 1 or 0, max_size, lease, max_size - sum, credit, number, seq}
"""
)

READ = (
    _COMMON
    + """
if not alive then return {'', 0, max_size or 0, lease or '0', number or 0, {}} end
return {epoch, learning and 1 or 0, max_size, lease, number, redis.call('HGETALL', KEYS[2])}
"""
)

BURY = (
    _COMMON
    + """
local packed = alive and epoch == ARGV[1] and not learning and redis.call('HGET', KEYS[2], ARGV[2])
if not packed then return 0 end
local row = unpack_row(packed)
if tonumber(row[1]) ~= tonumber(ARGV[3]) then return 0 end
local had = tonumber(row[3])
local credit = math.min(had, tonumber(ARGV[4]))
if credit > 0 then
  row[3], row[4] = string.format('%.0f', credit), '1'
  redis.call('HSET', KEYS[2], ARGV[2], table.concat(row, ' '))
else
  credit, count = 0, count - 1
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.call('HSET', KEYS[1], 'sum', sum + credit - had, 'count', count)
return 1
"""
)

LEARNED = (
    _COMMON
    + """
if not alive or epoch ~= ARGV[1] or not learning or declared > tonumber(ARGV[2]) then return 0 end
for i = 3, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], '0 0 ' .. ARGV[i + 1] .. ' 1 0 0 0') == 1 then
    sum, count = sum + tonumber(ARGV[i + 1]), count + 1
  end
end
redis.call('HSET', KEYS[1], 'learning', 0, 'sum', sum, 'count', count)
return 1
"""
)
