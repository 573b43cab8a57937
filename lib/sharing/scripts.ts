/**
 * What the server does in one step each, in Lua, and under which names things are there. `docs/many.md` explains both.
 *
 * Dates are those of the server alone (`TIME`), in epoch ms: the clocks of the instances may be apart.
 */

/** Days of the longest life without a sign of an instance. */
export const KEPT_MS = 30 * 24 * 3_600_000;

/** Of what a script did. */
export interface Script {
  readonly text: string;
  readonly sha: string;
}

/** What somebody else wrote may be no number. */
const NUMBER_OF = `
local function numberOf(text)
  local number = tonumber(text or '0')
  if number == nil or number ~= number or number < 0 then return 0 end
  return number
end`;

function script(body: string): Script {
  const text = NUMBER_OF + body;
  return { text, sha: new Bun.CryptoHasher("sha1").update(text).digest("hex") };
}

/**
 * One lease: takes a place in the last minute and in the day, or says why there is none and for how long.
 *
 * KEYS: epoch, day, the minute that is written, other minutes that count too.
 * ARGV: epoch, instance, number of the lease, places a minute (0: any), ms of a minute, requests a day (0: any),
 * requests of the day of this instance with this one, tokens a day (0: any), tokens of the day of this instance, end of
 * the day. Returns: 1 granted, 0 refused, -1 this server does not know us; what was used of the minute; requests and
 * tokens of the day of the others; ms to wait; what is full (1 minute, 2 day, 3 tokens); the date.
 */
export const LEASE = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {-1, 0, 0, 0, 0, 0, now} end
local me, number = ARGV[2], tonumber(ARGV[3])
local perMinute, windowMs = tonumber(ARGV[4]), tonumber(ARGV[5])
local perDay, requests = tonumber(ARGV[6]), tonumber(ARGV[7])
local tokensPerDay, tokens, dayEndsAt = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local used, othersRequests, othersTokens = 0, 0, 0
if dayEndsAt > 0 then
  local day = redis.call('HGETALL', KEYS[2])
  for at = 1, #day, 2 do
    local kind, who = string.sub(day[at], 1, 2), string.sub(day[at], 3)
    if who ~= me and kind == 'r:' then othersRequests = othersRequests + numberOf(day[at + 1]) end
    if who ~= me and kind == 't:' then othersTokens = othersTokens + numberOf(day[at + 1]) end
  end
end
if perMinute > 0 then
  for at = 3, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', now - windowMs)
    used = used + redis.call('ZCARD', KEYS[at])
  end
end
local function refused(waitMs, what) return {0, used, othersRequests, othersTokens, waitMs, what, now} end
if perDay > 0 and othersRequests + requests > perDay then return refused(dayEndsAt - now, 2) end
if tokensPerDay > 0 and othersTokens + tokens >= tokensPerDay then return refused(dayEndsAt - now, 3) end
if perMinute > 0 and used >= perMinute then
  local times = {}
  for at = 3, #KEYS do
    local members = redis.call('ZRANGE', KEYS[at], 0, used - perMinute, 'WITHSCORES')
    for each = 2, #members, 2 do times[#times + 1] = tonumber(members[each]) end
  end
  table.sort(times)
  return refused(math.max(1, times[used - perMinute + 1] + windowMs - now), 1)
end
if perMinute > 0 then
  redis.call('ZADD', KEYS[3], now, me .. ':' .. number)
  redis.call('PEXPIRE', KEYS[3], windowMs)
end
if dayEndsAt > 0 and number > numberOf(redis.call('HGET', KEYS[2], 's:' .. me)) then
  redis.call('HSET', KEYS[2], 'r:' .. me, requests, 's:' .. me, number)
  redis.call('PEXPIREAT', KEYS[2], math.max(dayEndsAt, now) + ${2 * 3_600_000})
end
return {1, used + 1, othersRequests, othersTokens, 0, 0, now}
`);

/**
 * A sign of life, once a second: who is there, and since when. An epoch begins where the server has none: it is new, or
 * was emptied. KEYS: epoch, instances. ARGV: instance, its data, a new epoch, ms after which others are gone, channel,
 * news. Returns the date, the epoch, and all instances with their data and when they were last seen.
 */
export const BEAT = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('GET', KEYS[1])
if not epoch then epoch = ARGV[3] end
redis.call('SET', KEYS[1], epoch, 'PX', ${KEPT_MS})
redis.call('HSET', KEYS[2], ARGV[1], now .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[2], ${KEPT_MS})
local known = redis.call('HGETALL', KEYS[2])
local there = {now, epoch}
for at = 1, #known, 2 do
  local seen = numberOf(string.match(known[at + 1], '^%d+'))
  if math.abs(seen - now) > tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[2], known[at])
  else
    there[#there + 1] = known[at]
    there[#there + 1] = known[at + 1]
  end
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return there
`);

/**
 * Reads hashes, all of one instant, with the batches that are in them. KEYS: last batches of instances, then hashes.
 * ARGV: how many of them are batches. Returns the numbers of the batches, then each hash as a list; what is no hash is
 * empty.
 */
export const READ = script(`
local told, batches = {{}}, tonumber(ARGV[1])
for each = 1, batches do told[1][each] = numberOf(redis.call('GET', KEYS[each])) end
for each = batches + 1, #KEYS do
  local hash = redis.pcall('HGETALL', KEYS[each])
  told[#told + 1] = hash.err and {} or hash
end
return told
`);

/**
 * What has changed at an instance, in one step with the news of it. A batch that was carried out already, and is sent
 * again because nobody knew that, does nothing. KEYS: epoch, the instance's last batch. ARGV: epoch, number of the
 * batch, channel, news, the changes in JSON. Returns 1, or -1 where this server does not know us.
 */
export const BATCH = script(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if numberOf(redis.call('GET', KEYS[2])) >= tonumber(ARGV[2]) then return 1 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', 86400000)
local changes = cjson.decode(ARGV[5])
for _, change in ipairs(changes.hashes) do
  for field, value in pairs(change.set or {}) do redis.call('HSET', change.name, field, value) end
  for _, field in ipairs(change.unset or {}) do redis.call('HDEL', change.name, field) end
  for field, by in pairs(change.add or {}) do
    local sum = redis.pcall('HINCRBY', change.name, field, by)
    if type(sum) == 'table' then redis.call('HSET', change.name, field, by) end
  end
  for field, value in pairs(change.raise or {}) do
    if value > numberOf(redis.call('HGET', change.name, field)) then redis.call('HSET', change.name, field, value) end
  end
  if redis.call('EXISTS', change.name) == 1 then redis.call('PEXPIRE', change.name, change.keepMs) end
end
for _, day in ipairs(changes.days) do
  if day.number > numberOf(redis.call('HGET', day.name, 's:' .. day.who)) then
    redis.call('HSET', day.name, 'r:' .. day.who, day.requests, 't:' .. day.who, day.tokens, 's:' .. day.who, day.number)
    redis.call('PEXPIREAT', day.name, math.max(day.endsAt, now) + ${2 * 3_600_000})
  end
end
for _, minute in ipairs(changes.minutes) do
  for _, entry in ipairs(minute.add) do
    if entry.at > now - minute.windowMs then redis.call('ZADD', minute.name, entry.at, entry.name) end
  end
  for _, name in ipairs(minute.remove) do redis.call('ZREM', minute.name, name) end
  if redis.call('EXISTS', minute.name) == 1 then redis.call('PEXPIRE', minute.name, minute.windowMs) end
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`);
