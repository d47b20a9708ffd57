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

-- Lua counts exactly up to 2^53 only, so an amount is two numbers: of its cents, the last nine digits and those before.
local base = 1000000000
local function parse(text)
    local digits = string.gsub(text or '0', '%.', '')
    return {tonumber(string.sub(digits, 1, -10)) or 0, tonumber(string.sub(digits, -9))}
end
local function add(sum, more)
    local low = sum[2] + more[2]
    local carry = math.floor(low / base)
    sum[1], sum[2] = sum[1] + more[1] + carry, low - carry * base
end
local function digits(sum)
    if sum[1] == 0 then return string.format('%.0f', sum[2]) end
    return string.format('%.0f%09.0f', sum[1], sum[2])
end
local function decimal(sum)
    local all = digits(sum)
    if #all < 3 then all = string.rep('0', 3 - #all) .. all end
    return string.sub(all, 1, -3) .. '.' .. string.sub(all, -2)
end

-- Sums are read before anything is written: a script that fails half-way is not undone.
local sums = {}
local function of(campaign)
    if not sums[campaign] then
        local old = redis.call('HMGET', 'budget:campaign:' .. campaign, 'spent', 'refunded')
        sums[campaign] = {parse(old[1] or nil), parse(old[2] or nil)}
    end
    return sums[campaign]
end
for _, spent in ipairs(step.spent) do
    add(of(spent[1])[1], parse(spent[2]))
end
local seen, new, refunded = {}, {}, {0, 0}
for _, refund in ipairs(step.refunds) do
    local id = refund[4]
    if not seen[id] and redis.call('SISMEMBER', refund[3], id) == 0 then
        add(of(refund[1])[2], parse(refund[2]))
        add(refunded, parse(refund[2]))
        new[#new + 1] = refund
    end
    seen[id] = true
end

for campaign, sum in pairs(sums) do
    redis.call('HSET', 'budget:campaign:' .. campaign,
        'spent', decimal(sum[1]), 'refunded', decimal(sum[2]), 'updated_at', step.now)
end
for _, refund in ipairs(new) do
    redis.call('SADD', refund[3], refund[4])
    redis.call('EXPIRE', refund[3], step.memory)
end
for _, advance in ipairs(step.advances) do
    redis.call('HSET', KEYS[1], advance[1] .. ':next', advance[3], advance[1] .. ':mark', advance[4])
end
return {'applied', tostring(#new), digits(refunded)}
