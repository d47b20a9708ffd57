-- Sets the time to live of every ranking anew; one that has expired comes back from its copy. Not if another run has
-- taken over: the next commit says so.
-- KEYS: progress, rankings
-- ARGV: run, ttl in ms
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then
  return
end
for _, key in ipairs(redis.call('HKEYS', KEYS[2])) do
  if redis.call('PEXPIRE', key, ARGV[2]) == 0 then
    redis.call('SET', key, redis.call('HGET', KEYS[2], key), 'PX', ARGV[2])
  end
end
