import { createRequire } from 'node:module'

// eslint's own neighbours: what is installed lies outside the checkout, where an import would not find it
const js = createRequire(process.argv[1])('@eslint/js')

const PARSERS = ['innerHTML', 'outerHTML', 'insertAdjacentHTML', 'createContextualFragment', 'setHTMLUnsafe', 'DOMParser']
const message = 'Text only ever becomes text: build elements with el() of web/lib/dom.mjs.'

export default [
  { ignores: ['web/vendor/**'] },
  {
    ...js.configs.recommended,
    files: ['web/**/*.mjs', 'web/**/*.js', 'tests/web/**/*.mjs', '*.mjs'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      ...js.configs.recommended.rules,
      'no-undef': 'off', // the type checker knows names better
      'no-unused-vars': ['error', { args: 'after-used', caughtErrors: 'none' }],
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-var': 'error',
      'prefer-const': 'error',
      'no-implied-eval': 'error',
      'no-eval': 'error',
      'no-new-func': 'error',
      'no-promise-executor-return': 'error',
      semi: ['error', 'never'],
      quotes: ['error', 'single', { avoidEscape: true }],
    },
  },
  {
    files: ['web/**/*.mjs', 'web/**/*.js'],
    rules: { 'no-restricted-syntax': ['error', { selector: `Identifier[name=/^(${PARSERS.join('|')})$/]`, message }] },
  },
]
