"""SMS through Twilio, played: senders, customers with telephones, the REST API, signed form posts.

    platform    the whole, as one object to script      api        what is answered to the business
    people      who writes and what                     speech     forms and their signatures
    standing    as the commands use it

In the ledger `phone_number_id` is the sender and `wa_id` the customer's number without its plus."""
