/** Runs in the browser: shows the document. Without a `validatorUrl` it would be sent to a validator on the internet. */
globalThis.SwaggerUIBundle({ url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true, validatorUrl: null });
