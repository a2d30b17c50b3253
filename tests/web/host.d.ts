/** ComfyUI's own modules, as far as the extension relies on them; the host serves them beside our folder. */

interface Host {
  [more: string]: any
}

declare module '*/scripts/app.js' {
  export const app: Host & {
    registerExtension(extension: { name: string } & Host): void
    loadApiJson(graph: object, title: string): void
    loadGraphData(graph: object, ...more: unknown[]): Promise<void>
  }
}

declare module '*/scripts/api.js' {
  export const api: EventTarget & Host & {
    fetchApi(route: string, options?: RequestInit): Promise<Response>
    apiURL(route: string): string
  }
}
