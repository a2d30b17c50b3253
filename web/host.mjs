/** The one place where our modules meet ComfyUI's own: everything else is testable without it. */
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

export { api, app }

/**
 * A file name with `%date:yyyy-MM-dd%`, `%Node.widget%` and the like filled in, as ComfyUI does for its own nodes alone.
 *
 * @param {string} name
 * @returns {string} as it is where the editor lends nothing for it
 */
export function filledIn(name) {
  const { utils } = /** @type {any} */ (window).comfyAPI ?? {}
  return utils?.applyTextReplacements?.(app.graph, name) ?? name
}
