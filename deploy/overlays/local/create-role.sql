-- The image of Postgres runs this by psql as its superuser in a new volume. The service's role owns its database and has no
-- power over the server.
\getenv password SHEETMILL_PASSWORD
create role sheetmill login password :'password';
create database sheetmill owner sheetmill;
