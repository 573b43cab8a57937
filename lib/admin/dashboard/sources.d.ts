/** The parts of the page are imported as text (`with { type: "text" }`), never as code. */
declare module "*.css" {
  const text: string;
  export default text;
}

declare module "*.js" {
  const text: string;
  export default text;
}
