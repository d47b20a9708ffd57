local step = cjson.decode(ARGV[1])

-- The guard: every partition is ours and stands where we believe it to stand.
local stored, holds = {'refused'}, true
for _, advance in ipairs(step.advances) do
    local owner = redis.call('HGET', KEYS[1], advance[1] .. ':owner') or ''
    local next_offset = redis.call('HGET', KEYS[1], advance[1] .. ':next') or ''
    stored[#stored + 1], stored[#stored + 2] = owner, next_offset
    holds = holds and owner == step.owner and next_offset == advance[2]
end
if not holds then return stored end

-- Sums are read before anything is written: a script that fails half-way is not undone.
local sums, exact = {}, tonumber(step.exact)
local function of(campaign)
    if not sums[campaign] then
        local old = redis.call('HMGET', 'budget:campaign:' .. campaign, 'spent', 'refunded')
        local function cents(text) return text and tonumber((string.gsub(text, '%.', ''))) or 0 end
        sums[campaign] = {cents(old[1]), cents(old[2])}
    end
    return sums[campaign]
end
for _, spent in ipairs(step.spent) do
    local sum = of(spent[1])
    sum[1] = sum[1] + tonumber(spent[2])
end
local seen, new, refunded = {}, {}, 0
for _, refund in ipairs(step.refunds) do
    local id = refund[4]
    if not seen[id] and redis.call('SISMEMBER', refund[3], id) == 0 then
        local sum = of(refund[1])
        sum[2] = sum[2] + tonumber(refund[2])
        refunded = refunded + tonumber(refund[2])
        new[#new + 1] = refund
    end
    seen[id] = true
end
for campaign, sum in pairs(sums) do
    if sum[1] >= exact or sum[2] >= exact then return {'inexact', 'budget:campaign:' .. campaign} end
end

local function decimal(cents) return string.format('%.0f.%02d', math.floor(cents / 100), cents % 100) end
for campaign, sum in pairs(sums) do
    redis.call('HSET', 'budget:campaign:' .. campaign,
        'spent', decimal(sum[1]), 'refunded', decimal(sum[2]), 'updated_at', step.now)
end
for _, refund in ipairs(new) do
    redis.call('SADD', refund[3], refund[4])
    redis.call('EXPIRE', refund[3], step.memory)
end
for _, advance in ipairs(step.advances) do
    redis.call('HSET', KEYS[1], advance[1] .. ':next', advance[3])
end
return {'applied', tostring(#new), string.format('%.0f', refunded)}
