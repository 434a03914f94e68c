/** Everything for a page without a bundler, in one module: the elements, and the API for programs. */
export * from './index.ts';
export * from './element.ts';
