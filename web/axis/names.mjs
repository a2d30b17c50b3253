/** The names that an axis may take, and how they are written into its values. */

const SAVED_ON_THE_WAY = /-(\d{6}|step\d{8})(?=\.safetensors$)/
/** @type {Record<string, [string, string, string]>} a parameter's node, its input there, and what is listed */
const LISTED = {
  'LoRA file': ['MjesecLoadLora', 'lora_name', 'LoRA files'],
  'LoRA file: all epochs of a run': ['MjesecLoadLora', 'lora_name', 'runs'],
  'LoRA file: all steps of a run': ['MjesecLoadLora', 'lora_name', 'runs'],
  checkpoint: ['CheckpointLoaderSimple', 'ckpt_name', 'checkpoints'],
  sampler: ['KSampler', 'sampler_name', 'samplers'],
  scheduler: ['KSampler', 'scheduler', 'schedulers'],
}

/**
 * @typedef {{ names: string[], what: string, single: boolean }} Choice
 *   single: one name is the whole axis
 * @typedef {{ name: string, standing: boolean, listed: boolean }} Row
 *   standing: it is one of the axis's values; listed: ComfyUI has it
 */

/**
 * What ComfyUI lists for a parameter now.
 *
 * @param {import('../lib/routes.mjs').Api} api
 * @param {string} parameter as Sweep Axis shows it
 * @returns {Promise<Choice | null>} null where a parameter takes numbers or texts
 */
export async function choicesFor(api, parameter) {
  const listed = LISTED[parameter]
  if (!listed) return null
  const [kind, input, what] = listed
  const answer = await api.fetchApi(`/object_info/${kind}`)
  if (!answer.ok) throw new Error(`ComfyUI answered ${answer.status} to a question for its ${what}.`)
  const options = optionsOf((await answer.json())[kind].input.required[input])
  const names = options.filter((name) => !/^\(.*\)$/.test(name))
  return what === 'runs' ? { names: runsOf(names), what, single: true } : { names, what, single: false }
}

/**
 * @param {any} told an input as ComfyUI describes it: the options themselves, or "COMBO" and the options beside it
 * @returns {string[]}
 */
export function optionsOf([first, more]) {
  return Array.isArray(first) ? first : more.options
}

/**
 * The files of runs that left others on their way; of a run whose own file is not there yet, the name that it will have.
 *
 * @param {string[]} names
 */
export function runsOf(names) {
  return [...new Set(names.filter((name) => SAVED_ON_THE_WAY.test(name)).map((name) => name.replace(SAVED_ON_THE_WAY, '')))].sort()
}

/**
 * As Sweep Axis reads them: one a line; a name with a comma or a quote stands in quotes.
 *
 * @param {string[]} names
 */
export function written(names) {
  return names.map((name) => (/[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join('\n')
}

/**
 * The names that stand in an axis's values, read as Sweep Axis does.
 *
 * @param {string} values
 * @param {string[]} listed a line that is one of them is that name, whatever commas it has
 * @returns {Set<string>}
 */
export function namesIn(values, listed) {
  const lines = values.split(/\r?\n/).map((line) => line.trim())
  return new Set(lines.flatMap((line) => (listed.includes(line) ? [line] : itemsOf(line))))
}

/**
 * The names to choose from: those of an axis that ComfyUI lacks now come first. They do not stand where it has none of
 * the axis's values: these were another parameter's.
 *
 * @param {string} values
 * @param {Choice} choice
 * @returns {Row[]}
 */
export function rowsFor(values, { names, single }) {
  const standing = namesIn(values, names)
  const missing = single ? [] : [...standing].filter((name) => !names.includes(name))
  const fits = missing.length < standing.size
  return [
    ...missing.map((name) => ({ name, standing: fits, listed: false })),
    ...names.map((name) => ({ name, standing: standing.has(name), listed: true })),
  ]
}

/**
 * Ticked names in the order in which they stand in the axis's values, then the new ones.
 *
 * @param {string} values
 * @param {string[]} ticked
 * @returns {string[]}
 */
export function merged(values, ticked) {
  const standing = [...namesIn(values, ticked)].filter((name) => ticked.includes(name))
  return [...new Set([...standing, ...ticked])]
}

/** @param {string} line items parted by commas; those in quotes keep theirs */
function itemsOf(line) {
  const items = line.matchAll(/"((?:[^"]|"")*)"|[^",\s][^,]*/g)
  return [...items].map(([bare, quoted]) => quoted?.replaceAll('""', '"') ?? bare.trim())
}
