// Publishes by the pkarr package's own client to the relay given, reads back what it wrote, and says so in JSON.
// Usage: node publish.mjs <folder with node_modules> <relay url>
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, relay] = process.argv.slice(2)
const require = createRequire(join(folder, 'package.json'))
const { Pkarr, SignedPacket, generateKeyPair, z32 } = await import(pathToFileURL(require.resolve('pkarr')))

const keypair = generateKeyPair()
const packet = {
  id: 0,
  type: 'response',
  flags: 0,
  answers: [
    { name: '_iroh', type: 'TXT', class: 'IN', ttl: 30, data: 'relay=https://npm.example./' },
    { name: '@', type: 'A', class: 'IN', ttl: 30, data: '192.0.2.7' }
  ]
}
const written = SignedPacket.fromPacket(keypair, packet)
const response = await Pkarr.relayPut(relay, written)
const read = await Pkarr.relayGet(relay, keypair.publicKey) // throws unless the signature holds

console.log(JSON.stringify({
  key: z32.encode(keypair.publicKey),
  status: response.status,
  identical: Buffer.from(written.bytes()).equals(Buffer.from(read.bytes())),
  records: read.resourceRecords('_iroh').map(record => record.data.toString())
}))
process.exit(0)
