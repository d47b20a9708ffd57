-- Gives every ranking that is there the time to live of the run that starts; it may differ from that of the run before.
-- KEYS: rankings
-- ARGV: ttl in ms (0 for ever)
local ttl = tonumber(ARGV[1])
for _, key in ipairs(redis.call('HKEYS', KEYS[1])) do
  if ttl > 0 or redis.call('PTTL', key) ~= -1 then
    local value = redis.call('GET', key) or redis.call('HGET', KEYS[1], key)
    if value == '' then
      -- Somebody else has deleted it, and there is no copy: it comes back when it changes.
      redis.call('HDEL', KEYS[1], key)
    elseif ttl == 0 then
      redis.call('SET', key, value)
      redis.call('HSET', KEYS[1], key, '')
    else
      redis.call('SET', key, value, 'PX', ttl)
      redis.call('HSET', KEYS[1], key, value)
    end
  end
end
