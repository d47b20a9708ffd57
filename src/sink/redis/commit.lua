-- Writes a commit, if the progress is where this run has left it.
-- KEYS: progress, rankings, ranking...
-- ARGV: run, committed epoch ('' for none), epoch, ttl in ms (0 for ever), n, n names and values of the progress,
--       value of each ranking ('' deletes it)
-- Answers nothing if the commit is there now; else the run and the epoch that are there.
--
-- Redis takes nothing back when a script fails, so all that can fail comes before the first write.
local held = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if held[1] == ARGV[1] and held[2] == ARGV[3] then
  return false -- An earlier attempt, of which we had no answer.
end
if held[1] ~= ARGV[1] or (held[2] or '') ~= ARGV[2] then
  return held
end
redis.call('HLEN', KEYS[2])
local ttl, n = tonumber(ARGV[4]), tonumber(ARGV[5])
for at = 6, 5 + n, 2 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
for i = 3, #KEYS do
  local key, value = KEYS[i], ARGV[n + i + 3]
  if value == '' then
    redis.call('DEL', key)
    redis.call('HDEL', KEYS[2], key)
  elseif ttl == 0 then
    redis.call('SET', key, value)
    redis.call('HSET', KEYS[2], key, '')
  else
    redis.call('SET', key, value, 'PX', ttl)
    redis.call('HSET', KEYS[2], key, value)
  end
end
return false
