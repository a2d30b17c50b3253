/** The one place where our modules meet ComfyUI's own: everything else is testable without it. */
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

export { api, app }
