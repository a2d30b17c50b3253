/** Numbers as people read them. */

/** @param {number | null | undefined} seconds @returns {string} "1:05", "2:03:04", or "–" */
export function clock(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return '–'
  const whole = Math.max(0, Math.round(seconds))
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const two = (/** @type {number} */ number) => String(number).padStart(2, '0')
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`
}

/** @param {number | null | undefined} value @param {number} [digits] significant ones */
export function number(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return '–'
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(digits)))
}
