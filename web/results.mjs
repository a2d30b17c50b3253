/** The page's one keeper of what runs gave to nodes. */
import { api, app } from './host.mjs'
import { Results } from './lib/results.mjs'

export const results = new Results(api, app)
