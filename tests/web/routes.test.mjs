// @vitest-environment node
import { expect, test, vi } from 'vitest'
import { Routes } from '../../web/lib/routes.mjs'

/** The host's api as we use it: answers every request alike and keeps what was asked. */
function answering(status, body) {
  const fetchApi = vi.fn(async () => new Response(body, { status }))
  return { fetchApi, apiURL: (route) => `/mounted/api${route}` }
}

test('every part of a path is one name, whatever it holds', () => {
  const routes = new Routes(answering(200, '{}'))
  expect(routes.path('cells', '../a b', 'x/y?z#')).toBe('/mjesec/cells/..%2Fa%20b/x%2Fy%3Fz%23')
})

test('an address for an image knows where the host is mounted', () => {
  const routes = new Routes(answering(200, '{}'))
  expect(routes.url(['cells', 'key'], { size: 64 })).toBe('/mounted/api/mjesec/cells/key?size=64')
  expect(routes.url(['cells', 'key'])).toBe('/mounted/api/mjesec/cells/key')
})

test('a question is asked with its query, and the JSON is the answer', async () => {
  const api = answering(200, '{"runs": [1]}')
  expect(await new Routes(api).get(['runs'], { since: 3, name: 'a&b' })).toEqual({ runs: [1] })
  expect(api.fetchApi).toHaveBeenCalledWith('/mjesec/runs?since=3&name=a%26b', undefined)
})

test('what is sent is JSON', async () => {
  const api = answering(200, '{}')
  await new Routes(api).post(['runs', 'a', 'stop'], { save: true })
  const [route, { method, headers, body }] = api.fetchApi.mock.calls[0]
  expect([route, method, headers['Content-Type'], JSON.parse(body)]).toEqual([
    '/mjesec/runs/a/stop', 'POST', 'application/json', { save: true },
  ])
})

test.each([
  [404, '{"error": "There is no run \'a\'; choose another."}', "There is no run 'a'; choose another."],
  [500, '<html>Internal Server Error</html>', 'ComfyUI answered 500 to /mjesec/runs/a.'],
  [502, '', 'ComfyUI answered 502 to /mjesec/runs/a.'],
])('a refusal with status %i is the server\'s own sentence or names the route', async (status, body, sentence) => {
  await expect(new Routes(answering(status, body)).get(['runs', 'a'])).rejects.toThrow(new Error(sentence))
})
