import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// the vitest that runs: it lies outside the checkout, where the tests' import would not find it
const vitest = createRequire(process.argv[1]).resolve('vitest/package.json').replace(/package\.json$/, 'dist/index.js')

export default {
  resolve: { alias: { vitest } },
  cacheDir: join(tmpdir(), 'mjesec-vite'),
  test: { include: ['tests/web/**/*.test.mjs'], environment: 'jsdom', watch: false },
}
