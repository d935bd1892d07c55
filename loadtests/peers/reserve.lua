-- Reserve an order atomically: all positions or none.
-- KEYS: 1 idempotency key, 2 reservation record, 3... positions ("s:node:item").
-- ARGV: 1 record, 2 life of the idempotency key in seconds, 3... units of each position.
-- Returns {1} = held, {2, record key} = repeat, {0, position, units there} = short.
local seen = redis.call('GET', KEYS[1])
if seen then
  return {2, seen}
end
for i = 3, #KEYS do
  local have = tonumber(redis.call('GET', KEYS[i]) or '0')
  if have < tonumber(ARGV[i]) then
    return {0, i - 2, have}
  end
end
for i = 3, #KEYS do
  redis.call('DECRBY', KEYS[i], ARGV[i])
end
redis.call('SET', KEYS[1], KEYS[2], 'EX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return {1}
