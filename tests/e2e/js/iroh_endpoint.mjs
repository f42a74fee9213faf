// One real iroh endpoint, from npm's @number0/iroh, relays disabled: a program that tests start and read.
//   node iroh_endpoint.mjs <folder with node_modules> serve <key file>
//   node iroh_endpoint.mjs <folder with node_modules> connect <endpoint id>
// It prints one JSON document a line, as ../iroh_endpoint.py does.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const [folder, role, argument] = process.argv.slice(2)
const iroh = createRequire(join(folder, 'package.json'))('@number0/iroh')
const bytes = text => Array.from(Buffer.from(text))
const text = octets => Buffer.from(octets).toString()
const say = facts => console.log(JSON.stringify(facts))
const ALPN = bytes('aspen-e2e/1')
const SIZE_LIMIT = 1000
const CONNECT_MS = 20_000

// As an application has it by default (names are looked up in DNS), but without relays.
async function bind (secretKey) {
  const builder = iroh.Endpoint.builder()
  iroh.presetN0DisableRelay(builder)
  builder.bindAddr('127.0.0.1:0')
  builder.alpns([ALPN])
  if (secretKey) builder.secretKey(Array.from(secretKey))
  return builder.bind()
}

async function serve (keyFile) {
  const endpoint = await bind(Buffer.from(readFileSync(keyFile, 'utf8').trim(), 'hex'))
  say({ id: endpoint.id().toString(), bound: endpoint.boundSockets().find(address => address.startsWith('127.')) })
  const incoming = await endpoint.acceptNext()
  const connection = await (await incoming.accept()).connect()
  const stream = await connection.acceptBi()
  const heard = await stream.recv.readToEnd(SIZE_LIMIT)
  await stream.send.writeAll(bytes('heard: ' + text(heard)))
  await stream.send.finish()
  say({ heard: text(heard), remote: connection.remoteId().toString() })
  await connection.closed()
  await endpoint.close()
}

async function connect (endpointId) {
  const endpoint = await bind()
  const address = new iroh.EndpointAddr(iroh.EndpointId.fromString(endpointId)) // the id, and nothing else
  try {
    const late = new Promise((resolve, reject) => setTimeout(() => reject(new Error('no connection in time')), CONNECT_MS))
    const connection = await Promise.race([endpoint.connect(address, ALPN), late])
    const stream = await connection.openBi()
    await stream.send.writeAll(bytes('by id alone'))
    await stream.send.finish()
    const answer = text(await stream.recv.readToEnd(SIZE_LIMIT))
    say({
      id: endpoint.id().toString(),
      remote: connection.remoteId().toString(),
      answer,
      paths: connection.paths().map(path => path.remoteAddr)
    })
    connection.close(0n, bytes('done'))
  } catch (error) {
    say({ error: error.message })
  }
  await endpoint.close()
}

await { serve, connect }[role](argument)
process.exit(0)
