"""E-mail, played: a mail service (Mailgun's form) and a mail server, with the people who write to a business.

platform    `MailSimulator`: what every played platform is, for mail
people      who writes, and what their programs make of it
service     the service's HTTP interface
server      a mail server that takes what the business sends, over real SMTP
speech      the service's webhooks
standing    for the commands
"""
