// The pkarr package's own client, against the relay given; it says what came of it in JSON.
//   node publish.mjs <folder with node_modules> <relay url>                       publish by a new key, read back
//   node publish.mjs <folder> <relay url> <secret key, hex> <text>                the same by a key, with a text
//   node publish.mjs <folder> <relay url> --resolve <public key, hex>             read only
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, relay, seed, argument] = process.argv.slice(2)
const require = createRequire(join(folder, 'package.json'))
const { Pkarr, SignedPacket, generateKeyPair, z32 } = await import(pathToFileURL(require.resolve('pkarr')))
const say = facts => console.log(JSON.stringify(facts))
const texts = packet => packet.resourceRecords('_iroh').map(record => record.data.toString())

if (seed === '--resolve') {
  const found = await Pkarr.relayGet(relay, Buffer.from(argument, 'hex')) // throws unless the signature holds
  say({ records: found ? texts(found) : null })
  process.exit(0)
}

const keypair = seed ? generateKeyPair(Buffer.from(seed, 'hex')) : generateKeyPair()
const text = argument ?? 'relay=https://npm.example./'
const written = SignedPacket.fromPacket(keypair, {
  id: 0,
  type: 'response',
  flags: 0,
  answers: [
    { name: '_iroh', type: 'TXT', class: 'IN', ttl: 30, data: text },
    { name: '@', type: 'A', class: 'IN', ttl: 30, data: '192.0.2.7' }
  ]
})
const response = await Pkarr.relayPut(relay, written)
const read = await Pkarr.relayGet(relay, keypair.publicKey)

say({
  key: z32.encode(keypair.publicKey),
  status: response.status,
  identical: Buffer.from(written.bytes()).equals(Buffer.from(read.bytes())),
  records: texts(read)
})
process.exit(0)
