-- Sends ready-made requests from a file, each once, in order. The file: u32 BE length, then that many bytes of HTTP.
local threads = {}
local requests = {}
local position = 0
exhausted = 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local head = file:read(4)
    if not head then break end
    local a, b, c, d = head:byte(1, 4)
    requests[#requests + 1] = file:read(((a * 256 + b) * 256 + c) * 256 + d)
  end
  file:close()
end

function request()
  position = position + 1
  if position > #requests then
    exhausted = 1
    wrk.thread:stop()
    return requests[#requests]
  end
  return requests[position]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'result: {"requests": %d, "duration_us": %d, "refused": %d, "broken": %d, "exhausted": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    threads[1]:get("exhausted"), latency:percentile(50), latency:percentile(99)))
end
