-- The load of bench/orders.py: single orders of 100 clients, three in ten at the market, prices
-- uniform over 2,000 ticks of 0.50 around 70,000, each with an idempotency key of its own.
-- An order is a function of its number, so that a second run can send it again: with a third
-- argument the numbers are drawn evenly from as many orders as it says.
-- `done` prints one JSON object, which the Python side reads. `waits_us` has the
-- middle of each half percent, so each stands for as many orders. (wrk searches all latencies for
-- each one that is asked for; to ask for all of them takes minutes.)

local MULTIPLIER, MODULUS = 48271, 2147483647 -- of Lehmer's generator, whose products are exact

function init(args)
  run = args[1] or "run"
  seed = tonumber(args[2]) or 1
  drawn_from = tonumber(args[3]) or 0
  sent = 0
  drawn = seed
  wrk.method = "POST"
  wrk.path = "/orders"
  wrk.headers["Content-Type"] = "application/json"
end

local function next_number()
  sent = sent + 1
  if drawn_from == 0 then return sent end
  drawn = drawn * MULTIPLIER % MODULUS
  return drawn % drawn_from + 1
end

function request()
  local number = next_number()
  math.randomseed(number)
  local side = math.random(2) == 1 and "buy" or "sell"
  local client = math.random(100)
  local quantity = math.random(1, 99)
  local kind = '"limit","price":' .. string.format("%.1f", 69500 + math.random(0, 2000) / 2)
  if math.random(10) <= 3 then kind = '"market"' end
  return wrk.format(nil, nil, nil, string.format(
    '{"client_id":"client-%d","instrument":"BTC-USD","side":"%s","type":%s,"quantity":0.%02d,' ..
    '"idempotency_key":"%s-%d"}',
    client, side, kind, quantity, run, number))
end

function done(summary, latency)
  local errors = summary.errors
  local waits = {}
  for half = 1, 200 do waits[half] = string.format("%d", latency:percentile(half / 2 - 0.25)) end
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"max_us":%d,' ..
    '"refused":%d,"broken":%d,"waits_us":[%s]}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), latency.max, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(waits, ",")))
end
