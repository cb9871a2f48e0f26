-- The Postgres image runs this with psql as superuser in a new volume. The role of the service owns its database and has no
-- privileges on the server.
\getenv password SHEETMILL_PASSWORD
create role sheetmill login password :'password';
create database sheetmill owner sheetmill;
