/** Our routes on the host: JSON in and out, and every failure an Error with the server's own sentence. */

/** @typedef {{ fetchApi(route: string, options?: RequestInit): Promise<Response>, apiURL(route: string): string }} Api */

export class Routes {
  /** @param {Api} api the host's own, which knows where it is mounted */
  constructor(api) {
    this.api = api
  }

  /**
   * @param {...string} parts of the path below /mjesec; each is one name, whatever it holds
   * @returns {string}
   */
  path(...parts) {
    return `/mjesec/${parts.map(encodeURIComponent).join('/')}`
  }

  /**
   * The address of something that an <img> loads.
   *
   * @param {string[]} parts
   * @param {Record<string, string | number>} [query]
   */
  url(parts, query = {}) {
    return this.api.apiURL(this.path(...parts)) + asQuery(query)
  }

  /**
   * @param {string[]} parts
   * @param {Record<string, string | number>} [query]
   * @returns {Promise<any>}
   */
  get(parts, query = {}) {
    return this.#ask(this.path(...parts) + asQuery(query))
  }

  /**
   * @param {string[]} parts
   * @param {unknown} [body]
   * @returns {Promise<any>}
   */
  post(parts, body = {}) {
    const headers = { 'Content-Type': 'application/json' }
    return this.#ask(this.path(...parts), { method: 'POST', headers, body: JSON.stringify(body) })
  }

  /**
   * @param {string} route
   * @param {RequestInit} [options]
   */
  async #ask(route, options) {
    const answer = await this.api.fetchApi(route, options)
    const value = await answer.json().catch(() => ({}))
    if (!answer.ok) throw new Error(value.error || `ComfyUI answered ${answer.status} to ${route}.`)
    return value
  }
}

/** @param {Record<string, string | number>} query */
function asQuery(query) {
  const text = new URLSearchParams(Object.entries(query).map(([key, value]) => [key, String(value)])).toString()
  return text && `?${text}`
}
